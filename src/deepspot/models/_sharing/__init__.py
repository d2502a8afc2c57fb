"""How models are passed on: files that are not trusted, zips, Hugging Face, the page, and what is at hand."""
