"""A bundle's vectors in the files that other engines load: hotwire's `.pt`, llama.cpp's control vector."""
