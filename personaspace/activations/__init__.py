"""Hidden states: extracting them, and their files."""
