package awssecretsmanager

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
)

func TestMetadataTags(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 40, 100)
		m := providers.Metadata{Generation: rapid.Int64().Draw(t, "generation")}
		for range rapid.IntRange(0, 12).Draw(t, "keys") {
			m.Keys = append(m.Keys, providers.OwnedKey{
				Ref: key.Ref{Principal: text.Draw(t, "principal"), KeyID: text.Draw(t, "id")}, Rotation: text.Draw(t, "rotation"),
				IssuedAt: time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "at"), 0).UTC(),
			})
		}
		tags, err := encode(m)
		require.NoError(t, err)
		for _, tag := range tags {
			assert.LessOrEqual(t, len(*tag.Value), maxTag)
			assert.Regexp(t, `^[A-Za-z0-9 _.:/=+@-]+$`, *tag.Value, "what AWS allows in a tag")
		}
		others := append([]types.Tag{{Key: aws.String("team"), Value: aws.String("x")}}, tags...)
		others = append(others, types.Tag{Key: aws.String("keyturn:99"), Value: aws.String("of a longer record before")})
		got, err := Decode(others)
		require.NoError(t, err)
		assert.Equal(t, m, got)
		if len(tags) > 1 {
			drop := rapid.IntRange(0, len(tags)-1).Draw(t, "drop")
			_, err = Decode(append(append([]types.Tag{}, tags[:drop]...), tags[drop+1:]...))
			require.ErrorIs(t, err, ErrDamaged, "a tag that is gone is noticed")
		}
	})
}

func FuzzDecode(f *testing.F) {
	tags, err := encode(providers.Metadata{Generation: 7})
	require.NoError(f, err)
	f.Add(*tags[0].Value, "")
	f.Add("1:02:0000000000000000:", "AAAA")
	f.Fuzz(func(t *testing.T, first, second string) {
		m, err := Decode([]types.Tag{{Key: aws.String("keyturn:0"), Value: &first}, {Key: aws.String("keyturn:1"), Value: &second}})
		if err != nil {
			assert.Equal(t, providers.Metadata{}, m)
			return
		}
		again, err := encode(m)
		require.NoError(t, err)
		same, err := Decode(again)
		require.NoError(t, err)
		assert.Equal(t, m, same)
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{"value":"a","port":5432,"ssl":null,"more":{"a":[1]}}`, `[]`, `null`, `{"value":"\ud800"}`, `{"a":1,"a":"x"}`, `"ktg_secret"`, ``} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		m, err := parse(&secretsmanager.GetSecretValueOutput{SecretString: &content})
		if err != nil {
			assert.ErrorIs(t, err, providers.ErrInvalid)
			assert.Less(t, len(err.Error()), 200, "nothing of the secret is repeated")
			return
		}
		assert.Len(t, m.bundle().Names(), len(m))
		encoded, err := m.encode()
		if err != nil {
			return // too long
		}
		text := string(encoded)
		again, err := parse(&secretsmanager.GetSecretValueOutput{SecretString: &text})
		require.NoError(t, err)
		assert.Equal(t, m.bundle().Names(), again.bundle().Names(), "foreign members stay")
	})
}

func TestStoreConfig(t *testing.T) {
	t.Parallel()
	for path, ok := range map[string]bool{
		"payments/api": true, "a": true, "": false, "arn:aws:secretsmanager:eu-central-1:123456789012:secret:x": false, "a b": false, "payments/api-AbC123": false,
	} {
		assert.Equal(t, ok, len((&StoreConfig{Path: path}).Problems()) == 0, path)
	}
}
