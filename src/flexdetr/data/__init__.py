"""Reading data sets (torch-free), and turning their images into batches."""
