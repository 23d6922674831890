"""The Hugging Face Hub: its client, what it refuses in one line, and repositories of artifacts."""
