"""The hold: keeps what ends a long call at hand for as long as the call lasts, and asks again when things change."""
