"""Loss by compute: MLA in every layer against the hybrid."""
