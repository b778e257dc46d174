"""What tokens cost: the packaged table, the operator's overrides and the sum of one call."""
