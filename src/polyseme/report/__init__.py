"""What a study found, in words and pictures: schema, prose, page and terminal."""
