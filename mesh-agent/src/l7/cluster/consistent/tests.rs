//! Shares, disruption and bounded load of consistent picks.
