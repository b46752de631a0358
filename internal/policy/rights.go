package policy

import "fmt"

// changedRights warns of what deliveries change for whoever may read the copies of consumers now.
func changedRights(f Facts) (w []string) {
	of := map[string][]string{}
	for _, i := range f.Instances {
		if i.ChangesRights != "" {
			of[i.ChangesRights] = append(of[i.ChangesRights], i.Name())
		}
	}
	for _, what := range sortedKeys(of) {
		who := of[what][0]
		if more := len(of[what]) - 1; more > 0 {
			who += fmt.Sprintf(" (and %d more)", more)
		}
		w = append(w, who+": "+what)
	}
	return w
}
