package inventory

import (
	"regexp"
	"strings"

	"github.com/keyturn/keyturn/internal/strictyaml"
)

// secretForms are values that are secrets wherever they stand, by the marks that their makers gave them.
var secretForms = regexp.MustCompile(strings.Join([]string{
	`(AKIA|ASIA)[0-9A-Z]{16}`,
	`gh[pousr]_[A-Za-z0-9]{20,}`,
	`github_pat_[A-Za-z0-9_]{20,}`,
	`glpat-[A-Za-z0-9_-]{16,}`,
	`[sr]k_(live|test)_[A-Za-z0-9]{10,}`,
	`xox[abeoprs]-[A-Za-z0-9-]{10,}`,
	`AIza[0-9A-Za-z_-]{30,}`,
	`hv[sb]\.[A-Za-z0-9_-]{20,}`,
	`ktg_[A-Za-z0-9]+_[A-Za-z0-9]{20,}`,
	`eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.`,
	`-----BEGIN [A-Z ]*PRIVATE KEY-----`,
	`://[^/\s:@{}]+:[^/\s@{}]+@`,
}, "|"))

// secretFields are names of fields whose value is a secret, unless it is a placeholder.
var (
	secretFields = regexp.MustCompile(`(?i)(^|[._-])(password|passwd|secret|token|api[_-]?key|private[_-]?key|credentials?)$`)
	bearer       = regexp.MustCompile(`(?i)authorization\s*:\s*\S+\s+[A-Za-z0-9+/=_.~-]{8,}`)
)

// placeholder is what stands for a key where one is needed.
var placeholder = regexp.MustCompile(`\{[A-Za-z][A-Za-z0-9_.-]*\}`)

// plaintextSecret tells whether a text holds a secret. The problem never repeats it.
func plaintextSecret(path, text string) (strictyaml.Problem, bool) {
	name := path[strings.LastIndexAny(path, ".]")+1:]
	isSecret := secretForms.MatchString(text) || bearer.MatchString(text) ||
		secretFields.MatchString(name) && text != "" && !placeholder.MatchString(text)
	return strictyaml.Problem{Field: path, What: "looks like a secret in plain text", Write: "remove it and treat it as exposed; secrets stand only in issuer, store and consumer"}, isSecret
}
