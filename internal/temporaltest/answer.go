package temporaltest

import "encoding/json"

// Answer is what a query of a workflow returned: Of, as its JSON says.
type Answer struct{ Of any }

// HasValue implements converter.EncodedValue.
func (a Answer) HasValue() bool { return true }

// Get implements converter.EncodedValue.
func (a Answer) Get(into any) error {
	text, err := json.Marshal(a.Of)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
