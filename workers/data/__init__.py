"""Images: read as arrays (one module per source), split and put on the device once, augmented there in batches."""
