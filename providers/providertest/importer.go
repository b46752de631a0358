package providertest

import (
	"context"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// importedID is what the suite calls a key that it imports.
const importedID = "from-before-keyturn"

// existing is a key of before keyturn: its form is none of the issuer's.
func (w issuerWorld) existing(t T, word string) secret.Bundle {
	fields := w.can.Fields
	if len(fields) == 0 {
		fields = []string{secret.ValueField}
	}
	var pairs []string
	for _, name := range fields {
		pairs = append(pairs, name, "existed-"+word+"-"+strings.ToLower(name)+"-0123456789abcdef")
	}
	return bundleOf(t, pairs...)
}

// importing runs a case of an issuer that can import.
func importing(run func(t T, w issuerWorld, i providers.Importer)) func(t T, w issuerWorld) {
	return func(t T, w issuerWorld) {
		i, can := w.Issuer.(providers.Importer)
		if !can {
			skip(t, "the issuer cannot import")
			return
		}
		made, err := i.Prepare(t.Context())
		require.NoError(t, err)
		assert.Empty(t, made, "what is there is not made again")
		run(t, w, i)
	}
}

// imported imports a key, and awaits that it is listed.
func (w issuerWorld) imported(t T, i providers.Importer, id string, b secret.Bundle) key.Info {
	t.Helper()
	info, err := i.Import(t.Context(), providers.ImportRequest{KeyID: id}, copyOf(t, b))
	require.NoError(t, err)
	w.await(t, "an imported key is listed", func([]key.Info) bool { _, ok := w.listed(t, info.KeyID); return ok })
	return info
}

func importedWorks(t T, w issuerWorld, i providers.Importer) {
	_, other := w.issue(t, firstToken)
	b := w.existing(t, "first")
	require.ErrorIs(t, w.Use(b), providers.ErrKeyRefused)
	info := w.imported(t, i, importedID, b)
	assert.Equal(t, importedID, info.KeyID)
	assert.Equal(t, w.Principal, info.Principal)
	assert.Equal(t, key.Active, info.State)
	w.works(t, b)
	w.works(t, other)
	id, err := w.Issuer.Identify(t.Context(), b)
	require.NoError(t, err)
	assert.Equal(t, importedID, id)
	require.NoError(t, w.Issuer.Destroy(t.Context(), key.Ref{Principal: info.Principal, KeyID: info.KeyID}))
	w.refused(t, b)
	w.works(t, other)
}

func importedTwice(t T, w issuerWorld, i providers.Importer) {
	b := w.existing(t, "first")
	first := w.imported(t, i, importedID, b)
	again := w.imported(t, i, importedID, b)
	assert.Equal(t, first.KeyID, again.KeyID)
	assert.True(t, first.CreatedAt.Equal(again.CreatedAt), "the same key")
	w.loseReply(t, OpImport, func() error {
		_, err := i.Import(t.Context(), providers.ImportRequest{KeyID: "another"}, w.existing(t, "second"))
		return err
	})
	w.imported(t, i, "another", w.existing(t, "second"))
	assert.Len(t, w.list(t), 2)
}

func importedConflicts(t T, w issuerWorld, i providers.Importer) {
	b := w.existing(t, "first")
	w.imported(t, i, importedID, b)
	for what, err := range map[string]error{
		"another key under this ID": second(i.Import(t.Context(), providers.ImportRequest{KeyID: importedID}, w.existing(t, "second"))),
		"this key under another ID": second(i.Import(t.Context(), providers.ImportRequest{KeyID: "another"}, copyOf(t, b))),
		"another principal":         second(w.Other.(providers.Importer).Import(t.Context(), providers.ImportRequest{KeyID: importedID}, copyOf(t, b))),
	} {
		require.ErrorIs(t, err, providers.ErrConflict, what)
	}
	list := w.list(t)
	require.Len(t, list, 1)
	assert.Equal(t, importedID, list[0].KeyID)
	require.ErrorIs(t, w.Use(w.existing(t, "second")), providers.ErrKeyRefused)
	w.works(t, b)
}

func importedInvalid(t T, w issuerWorld, i providers.Importer) {
	foreign := bundleOf(t, "endpoint", "https://example.com")
	require.ErrorIs(t, second(i.Import(t.Context(), providers.ImportRequest{KeyID: importedID}, foreign)), providers.ErrInvalid, "a bundle without the fields of a key")
	require.ErrorIs(t, second(i.Import(t.Context(), providers.ImportRequest{}, w.existing(t, "first"))), providers.ErrInvalid, "a key without a name")
	assert.Empty(t, w.list(t))
}

func importErrors(t T, w issuerWorld, i providers.Importer) {
	b := w.existing(t, "first")
	call := func(ctx context.Context, id string) error {
		_, err := i.Import(ctx, providers.ImportRequest{KeyID: id}, copyOf(t, b))
		return err
	}
	require.Error(t, call(expired(t), importedID))
	assert.Empty(t, w.list(t), "an ended context has no effect")
	w.imported(t, i, importedID, b)
	var values [][]byte
	for _, name := range b.Names() {
		v, _ := b.Field(name)
		values = append(values, v.Reveal())
	}
	err := call(t.Context(), "another")
	require.Error(t, err)
	assertFit(t, err, values...)
}

func second[T any](_ T, err error) error { return err }
