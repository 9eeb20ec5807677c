"""From a site's event log to what the nets learn from."""
