"""The registrar: machines outside the cluster join, beat and leave here."""
