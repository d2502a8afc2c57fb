"""From slides to patients: pseudobulk, agreement with bulk, survival, classification."""
