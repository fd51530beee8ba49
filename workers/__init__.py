"""flatsweep's data plane: trains and measures one network with torch, with or without Ray and MLflow."""
