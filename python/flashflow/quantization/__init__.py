"""INT8: the contract's arithmetic in torch, training that knows of it, and calibration of a trained model."""
