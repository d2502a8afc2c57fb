"""Export of tables to the formats of other software."""
