package devserver

import (
	"html"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gomarkdown/markdown"
	rendering "github.com/gomarkdown/markdown/html"
	"github.com/gomarkdown/markdown/parser"
	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// rendered is what the Web UI makes of current details: processMarkdown of ui-server's server/route/ui.go.
func rendered(details string) string {
	p := parser.NewWithExtensions(parser.CommonExtensions | parser.AutoHeadingIDs)
	return string(markdown.Render(p.Parse([]byte(details)), rendering.NewRenderer(rendering.RendererOptions{Flags: rendering.CommonFlags | rendering.HrefTargetBlank})))
}

// shown is a status whose every text is the same.
func shown(text string) workflows.Status {
	ref := key.Ref{KeyID: text}
	return workflows.Status{
		Credential: text, Phase: workflows.Phase(text), Doing: "Held: " + text, Owner: text, RequestedBy: text, Reason: text, WaitsFor: text, UnblockedBy: text, Until: time.Unix(0, 0),
		Retiring: ref, Incoming: ref, NoWayBack: text, Evidence: &policy.Evidence{Missing: []policy.Decision{{Message: text}}},
		Waves: []workflows.WaveStatus{{Name: text, Instances: []string{text}, State: text, Behind: []string{text}, More: 1, Budget: text}}, Takes: text, Budget: text, Notices: []string{text},
		Gate:     &policy.OpenGate{Gate: inventory.Gate(text), Needs: inventory.Approval{Trust: inventory.TrustAny}},
		Timeline: []workflows.Moment{{Phase: workflows.Phase(text), What: text}},
	}
}

var tag = regexp.MustCompile(`<[^>]*>`)

// tags are those of a page, without the names that headings get, and but for fractions, which are set small, and
// JSON, which is set as code.
func tags(page string) []string {
	var found []string
	for _, t := range tag.FindAllString(page, -1) {
		switch {
		case strings.HasPrefix(t, "<h3"):
			found = append(found, "<h3>")
		case t == "<sup>", t == "</sup>", t == "<sub>", t == "</sub>", t == "<code>", t == "</code>":
		default:
			found = append(found, t)
		}
	}
	return found
}

// Whatever an issuer, a store, a consumer or a person says is text in the Web UI, and nothing else: the page
// has the tags that it has with harmless words.
func FuzzCurrentDetails(f *testing.F) {
	for _, seed := range []string{
		"<script>alert(1)</script>", "[a](https://evil.example)", "see https://evil.example/x or HTTP://e.example", "mailto:a@b.example", "![x](y)", "`a`", "``", "**b** __c__ *d*",
		"~~d~~", "$e$ $$f$$", "a|b|c", "# h", "\\", "a\\", "- x", "1. x", "\n\n# h\n- x", "&lt;b&gt; &#60;", "{#id}", "[^1]", "[a]: https://b", ": d", "---", "===", "<https://evil.example>",
		"\x1b[2J\u202e", "```\nx\n```", "    code", "\t\tcode", "a  \nb", "a  ", "http://[::1]/", "ftp://x", "a<!-- b -->", "^x^", "(c) 1/2 --", `{"a"}`, "`{\"a\"}`", `\{"<b>"}\`, `{"a|b"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 2000 || strings.TrimSpace(text) == "" {
			return
		}
		assert.Equal(t, tags(rendered(shown("word").Markdown(time.Now()))), tags(rendered(shown(text).Markdown(time.Now()))), "%q", text)
	})
}

// What people copy from a page, such as the JSON to send, is what was written, and no typographer's version of it.
func TestCurrentDetailsAreShownAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`write it as {"gate":"revoke","by":"you"}`, "keyturn rollback payments-api --reason … --sign KEY", "it is --- and goes on... ----", "a-b.c..d", `a\{"b":"c"}{"d":"e"}`,
	} {
		page := rendered(shown(text).Markdown(time.Now()))
		assert.Contains(t, html.UnescapeString(tag.ReplaceAllString(page, "")), "Note: "+text, page)
	}
}
