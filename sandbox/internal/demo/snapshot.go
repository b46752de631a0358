package demo

import "time"

// Snapshot is everything that was counted, at one moment.
type Snapshot struct {
	At        time.Time `json:"at"`
	Consumers []Counts  `json:"consumers"`
	// Sent, Refused and Failed are of all consumers together. What keyturn itself tries is in the ledger
	// alone: its last probe of a revoked key is meant to be refused.
	Sent    int `json:"sent"`
	Refused int `json:"refused"`
	Failed  int `json:"failed"`
	// Ledger is what the gateway saw, keyturn's own probes included.
	Ledger []Entry `json:"ledger"`
}

// newSnapshot adds up.
func newSnapshot(at time.Time, consumers []Counts, ledger []Entry) Snapshot {
	s := Snapshot{At: at.UTC(), Consumers: consumers, Ledger: ledger}
	for _, c := range consumers {
		s.Sent += c.Sent
		s.Refused += c.Refused
		s.Failed += c.Failed
	}
	return s
}
