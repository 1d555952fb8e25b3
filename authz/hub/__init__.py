"""The hub: takes what all sidecars record, keeps it, and shows it through one API and one page."""
