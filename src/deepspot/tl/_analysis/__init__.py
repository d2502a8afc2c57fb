"""Analysis of predicted genes: markers, enrichment, pathways."""
