"""Fine-tuning tasks: segmentation, classification, detection."""
