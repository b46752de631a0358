package awssecretsmanager

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
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

// maxTag is what a tag holds.
const maxTag = 256

// encode writes metadata as tags, as it was kept before there was a companion.
func encode(m key.Metadata) ([]types.Tag, error) {
	plain, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	text := base64.StdEncoding.EncodeToString(packed.Bytes())
	// The header's length does not depend on the count, which depends on it.
	count := (len(header(0, text)) + len(text) + maxTag - 1) / maxTag
	if count > maxTags {
		return nil, fmt.Errorf("%w: it needs %d tags", providers.ErrInvalid, count)
	}
	text = header(count, text) + text
	var tags []types.Tag
	for i := 0; i*maxTag < len(text); i++ {
		tags = append(tags, types.Tag{
			Key: aws.String(tagPrefix + strconv.Itoa(i)), Value: aws.String(text[i*maxTag : min((i+1)*maxTag, len(text))]),
		})
	}
	return tags, nil
}

func header(count int, text string) string {
	return fmt.Sprintf("%s:%02d:%s:", tagVersion, count, checksum(text))
}

func TestMetadataTags(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 40, 100)
		m := key.Metadata{Generation: rapid.Int64().Draw(t, "generation")}
		for range rapid.IntRange(0, 12).Draw(t, "keys") {
			m.Keys = append(m.Keys, key.Owned{
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
		got, err := decodeTags(others)
		require.NoError(t, err)
		assert.Equal(t, m, got)
		if len(tags) > 1 {
			drop := rapid.IntRange(0, len(tags)-1).Draw(t, "drop")
			_, err = decodeTags(append(append([]types.Tag{}, tags[:drop]...), tags[drop+1:]...))
			require.ErrorIs(t, err, ErrDamaged, "a tag that is gone is noticed")
		}
	})
}

func FuzzDecodeTags(f *testing.F) {
	tags, err := encode(key.Metadata{Generation: 7})
	require.NoError(f, err)
	f.Add(*tags[0].Value, "")
	f.Add("1:02:0000000000000000:", "AAAA")
	f.Fuzz(func(t *testing.T, first, second string) {
		m, err := decodeTags([]types.Tag{{Key: aws.String("keyturn:0"), Value: &first}, {Key: aws.String("keyturn:1"), Value: &second}})
		if err != nil {
			assert.Equal(t, key.Metadata{}, m)
			return
		}
		again, err := encode(m)
		require.NoError(t, err)
		same, err := decodeTags(again)
		require.NoError(t, err)
		assert.Equal(t, m, same)
	})
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"generation":7}`, `{"generation":7} x`, `{"generation":7}{}`, `{"more":1}`, `null`, `[]`, ``} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := Decode(text)
		if err != nil {
			require.ErrorIs(t, err, ErrDamaged)
			assert.Equal(t, key.Metadata{}, m)
			return
		}
		again, err := json.Marshal(m)
		require.NoError(t, err)
		same, err := Decode(string(again))
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
		"payments/api": true, "a": true, "": false, "arn:aws:secretsmanager:eu-central-1:123456789012:secret:x": false, "a b": false, "payments/api-AbC123": false, "payments/api-x9Zq2f": false,
		"payments-secret": true, "payments-SECRET": true, "payments-Secret": true, "payments/db-prod01": true, "payments/api.keyturn": false, strings.Repeat("a", 504): true, strings.Repeat("a", 505): false,
	} {
		assert.Equal(t, ok, len((&StoreConfig{Path: path}).Problems()) == 0, path)
	}
}
