package activities_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/workerconfig"
)

// Who reviews an incident is trusted with incidents, and is not who declared it; that is in the record once, however often it is told.
func TestWhoReviewsAnIncident(t *testing.T) {
	t.Parallel()
	ines, omar, mallory := newKey(t), newKey(t), newKey(t)
	for name, x := range map[string]struct {
		by   ssh.Signer
		bend func(*incident.Review)
		says string
	}{
		"another one who may declare incidents": {omar, func(*incident.Review) {}, ""},
		"not who declared it":                   {ines, func(*incident.Review) {}, "ines declared the incident, and somebody else has to review it"},
		"not whoever signs it":                  {mallory, func(*incident.Review) {}, "the signer is not trusted"},
		"not of another incident":               {omar, func(r *incident.Review) { r.Incident = incident.ID("other") }, "it reviews incident/other, and a declaration is of incident/leak"},
		"not of another declaration":            {omar, func(r *incident.Review) { r.Declarations = []string{"d"} }, "by other declarations than these"},
		"not of another namespace":              {omar, func(r *incident.Review) { r.Namespace = "staging" }, "by other declarations than these"},
		"not before it is signed":               {omar, func(r *incident.Review) { r.SignedAt = r.SignedAt.Add(time.Hour) }, "which is to come"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			signers := filepath.Join(t.TempDir(), "incidents")
			require.NoError(t, os.WriteFile(signers, fmt.Appendf(nil, "ines %somar %s", ssh.MarshalAuthorizedKey(ines.PublicKey()), ssh.MarshalAuthorizedKey(omar.PublicKey())), 0o600))
			config, err := workerconfig.Load("keyturn-worker.yaml", fmt.Appendf(nil, "%strust: {incidents: %q}\n", caseConfig, signers), c.do.Descriptors)
			require.NoError(t, err)
			c.do.Config = func() *workerconfig.Config { return config }
			in := activities.ReviewInput{}
			declaration, err := incident.Declaration{
				Incident: incident.ID("leak"), Reason: "key in a public repository", Deadline: incident.DefaultDeadline,
				Exposed: map[string][]string{"payments-api": {"key-old"}, "payments-batch": {"k"}}, Nonce: "n1", SignedAt: c.now().Add(-48 * time.Hour), Expires: c.now().Add(-47 * time.Hour),
			}.Sign(ines)
			require.NoError(t, err)
			in.Declarations = []signed.Envelope{declaration}
			digests, err := incident.Digests(in.Declarations)
			require.NoError(t, err)
			review := incident.Review{Incident: incident.ID("leak"), Declarations: digests, Comment: "right key, right time", SignedAt: c.now()}
			x.bend(&review)
			in.Review, err = review.Sign(x.by)
			require.NoError(t, err)
			c.workflow = incident.ReviewID(incident.ID("leak"))
			if x.says != "" {
				refused := (&signedCase{crashCase: c}).refusal(c.attempt("RecordReview", in, nil, 2))
				assert.Equal(t, activities.TypeDeclaration, refused.Type())
				assert.Contains(t, refused.Message(), x.says)
				assert.Empty(t, c.recorded(audit.IncidentReviewed))
				return
			}
			var reviewed activities.Reviewed
			c.execute("RecordReview", in, &reviewed)
			c.execute("RecordReview", in, &reviewed)
			assert.Equal(t, activities.Reviewed{Incident: incident.ID("leak"), By: "omar", Declared: "ines", Comment: "right key, right time", At: c.now()}, reviewed)
			events := c.recorded(audit.IncidentReviewed)
			require.Len(t, events, 2)
			assert.Equal(t, "omar", events[0].Detail["by"])
		})
	}
}
