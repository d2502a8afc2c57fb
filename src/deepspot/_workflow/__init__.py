"""Workflow of ``deepspot report``: from a file to a report."""
