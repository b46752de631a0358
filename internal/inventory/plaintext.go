package inventory

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/keyturn/keyturn/internal/strictyaml"
)

// secretForms are values that are secrets wherever they stand, by the marks that their makers gave them. The mark alone
// is looked for first: of thousands of credentials, most texts have none.
var secretForms = []secretForm{
	form("AKIA", `AKIA[0-9A-Z]{16}`),
	form("ASIA", `ASIA[0-9A-Z]{16}`),
	form("gh", `gh[pousr]_[A-Za-z0-9]{20,}`),
	form("github_pat_", `github_pat_[A-Za-z0-9_]{20,}`),
	form("glpat-", `glpat-[A-Za-z0-9_-]{16,}`),
	form("k_", `[sr]k_(live|test)_[A-Za-z0-9]{10,}`),
	form("xox", `xox[abeoprs]-[A-Za-z0-9-]{10,}`),
	form("AIza", `AIza[0-9A-Za-z_-]{30,}`),
	form("hv", `hv[sb]\.[A-Za-z0-9_-]{20,}`),
	form("ktg_", `ktg_[A-Za-z0-9]+_[A-Za-z0-9]{20,}`),
	form("eyJ", `eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.`),
	form("-----BEGIN ", `-----BEGIN [A-Z ]*PRIVATE KEY-----`),
	form("://", `://[^/\s:@{}]+:[^/\s@{}]+@`),
	form(":", `(?i)authorization\s*:\s*(?:bearer|basic|token|apikey|api-key|digest|negotiate|signed)\s+[A-Za-z0-9+/=_.~-]{8,}`),
}

// secretForm is a pattern, and a mark that each text which matches it contains.
type secretForm struct {
	mark    string
	pattern *regexp.Regexp
}

func form(mark, pattern string) secretForm { return secretForm{mark, regexp.MustCompile(pattern)} }

func (f secretForm) in(text string) bool {
	return strings.Contains(text, f.mark) && f.pattern.MatchString(text)
}

// accessKey is a word of the length and the alphabet of AWS's secret access keys, which have no mark.
var accessKey = regexp.MustCompile(`(?:^|[^A-Za-z0-9/+_-])([A-Za-z0-9/+]{40})(?:$|[^A-Za-z0-9/+=_-])`)

// hasAccessKey tells whether such a word in the text is as mixed as random ones are: no digest in hexadecimal, path or name is.
func hasAccessKey(text string) bool {
	return slices.ContainsFunc(accessKey.FindAllStringSubmatch(text, -1), func(found []string) bool {
		upper, lower, digit, distinct := false, false, false, map[rune]bool{}
		for _, r := range found[1] {
			upper, lower, digit = upper || unicode.IsUpper(r), lower || unicode.IsLower(r), digit || unicode.IsDigit(r)
			distinct[r] = true
		}
		return upper && lower && digit && len(distinct) > 20 && strings.Count(found[1], "/") < 5
	})
}

// secretFields are names of fields whose value is a secret, unless it is a placeholder.
var secretFields = regexp.MustCompile(`(?i)(^|[._-])(password|passwd|secret|token|api[_-]?key|private[_-]?key|credentials?)$`)

// placeholder is what stands for a key where one is needed.
var placeholder = regexp.MustCompile(`\{[A-Za-z][A-Za-z0-9_.-]*\}`)

// variableName is one of the environment.
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// adoptedID is an entry of adopt that names an access key of AWS: by its ID, which is no secret there,
// while elsewhere it most often stands beside one.
var adoptedID = regexp.MustCompile(`^AKIA[0-9A-Z]{16}$`)

// plaintextSecret tells whether a text holds a secret. The problem never repeats it.
func plaintextSecret(path, text string) (strictyaml.Problem, bool) {
	if strings.Contains(path, ".adopt[") && adoptedID.MatchString(text) {
		return strictyaml.Problem{}, false
	}
	name := path[strings.LastIndexAny(path, ".]")+1:]
	if strings.Contains(path, ".target.variables") && variableName.MatchString(text) {
		name = "" // it names the variable of a field that may have any name
	}
	isSecret := slices.ContainsFunc(secretForms, func(f secretForm) bool { return f.in(text) }) || hasAccessKey(text) ||
		secretFields.MatchString(name) && text != "" && !placeholder.MatchString(text)
	return strictyaml.Problem{Field: path, What: "looks like a secret in plain text", Write: "remove it and treat it as exposed; secrets stand only in issuer, store and consumer"}, isSecret
}

// holdsSecret tells whether a text or a name in a JSON document is a secret, as the same one is in a file.
func holdsSecret(document []byte) bool {
	var whole any
	if json.Unmarshal(document, &whole) != nil {
		return false // which is said elsewhere
	}
	return inJSON("", whole)
}

func inJSON(path string, value any) bool {
	switch value := value.(type) {
	case string:
		_, found := plaintextSecret(path, value)
		return found
	case []any:
		for i, item := range value {
			if inJSON(fmt.Sprintf("%s[%d]", path, i), item) {
				return true
			}
		}
	case map[string]any:
		for name, item := range value {
			if _, found := plaintextSecret("", name); found || inJSON(strictyaml.Entry(path, name), item) {
				return true
			}
		}
	}
	return false
}
