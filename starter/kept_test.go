package main

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/inventory"
)

func TestARotationSaysThatItKeepsTheSpecItBeganWith(t *testing.T) {
	t.Parallel()
	spec := func(generation int64, c inventory.Credential) inventory.Spec {
		return inventory.Spec{Generation: generation, Credential: c}
	}
	own := spec(1000, inventory.Credential{Name: "a", Purpose: "charges"})
	note := kept(own, spec(2000, inventory.Credential{Name: "a", Purpose: "refunds"}))
	assert.Contains(t, note, "it keeps the spec that it began with: another one was applied 1970-01-01")
	assert.Contains(t, note, "(purpose charges -> refunds)")
	many := kept(own, spec(2000, inventory.Credential{Name: "a", Scopes: []string{"a", "b", "c", "d", "e"}}))
	assert.Contains(t, many, "; and 2 more)")
	assert.Empty(t, kept(own, spec(2000, own.Credential)), "signed again, it says the same")
	assert.Empty(t, kept(spec(2000, inventory.Credential{Name: "a"}), own), "rotate -f brought a newer one than what is applied")
}
