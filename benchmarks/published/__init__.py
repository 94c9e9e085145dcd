"""Files that strangers published, through the importer, the compiler and their own runtime."""
