"""From a network and a volume to an answer in the volume's own grid."""
