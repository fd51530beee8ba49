"""A sweep as one self-contained web page, and as a table for a paper. Knows tables and the store, not Ray or torch."""
