"""Analyses of patients: pseudobulk, agreement with bulk RNA, survival, classification."""
