"""Embeddings of the tiles of a slide: as a table, as bags for a model, and in the cache on disk."""
