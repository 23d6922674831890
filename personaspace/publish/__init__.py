"""A finished study as repositories of the Hugging Face Hub: a model's and a data set's, with cards.

`contents` collects files from the study's store, `card` writes the page of each repository,
`upload` sends what is not there yet.
"""
