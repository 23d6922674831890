"""A judge: another model that scores answers, local or behind a server, and what it said before."""
