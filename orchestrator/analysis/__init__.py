"""What the recorded trials say: correlation of flatness with the robust generalisation gap, and figures of it."""
