"""The animals data set: passages and questions in SQuAD v1.1 form, see DATA.md."""
