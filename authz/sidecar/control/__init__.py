"""What a sidecar does apart from answering: following the policies and writing the records."""
