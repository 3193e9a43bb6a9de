"""Do scores predict retraining? The linear datamodeling score, with intervals and paired differences."""
