"""Files of volumes: finding, reading and checking them."""
