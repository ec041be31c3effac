"""Fine-tuning: a model in released format, one's own texts and questions; `shiori train` is its door."""
