"""The detector: backbone, encoder, decoder and what they share."""
