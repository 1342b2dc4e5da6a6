"""Files of weights: layouts, adapters, loading, saving, the Hugging Face Hub."""
