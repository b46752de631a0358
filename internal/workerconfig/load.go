package workerconfig

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/endpoint"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// Rate is a number of calls in a time: "50/s", "600/m". The zero Rate is no limit.
type Rate struct {
	PerSecond float64
}

var rateForm = regexp.MustCompile(`^([0-9]{1,9})/(s|m|h)$`)

// UnmarshalText reads the form above.
func (r *Rate) UnmarshalText(text []byte) error {
	parts := rateForm.FindStringSubmatch(string(text))
	if parts == nil {
		return fmt.Errorf("no rate; write calls and a unit, such as 50/s or 600/m")
	}
	calls, err := strconv.Atoi(parts[1])
	if err != nil || calls == 0 {
		return fmt.Errorf("a rate of nothing; write at least 1/h, or leave it out for no limit")
	}
	unit := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[parts[2]]
	r.PerSecond = float64(calls) / unit.Seconds()
	return nil
}

// LoadFile reads the configuration of a worker. A file that others may write is refused: who writes it
// says what may happen.
func LoadFile(path string, descriptors []providers.Descriptor) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading worker configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat() // of the file that is read, whatever takes its name meanwhile
	if err != nil {
		return nil, fmt.Errorf("reading worker configuration: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("reading worker configuration %s: its mode %04o lets others write it; run: chmod go-w %s", path, info.Mode().Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, strictyaml.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading worker configuration: %w", err)
	}
	return load(path, data, descriptors, true)
}

// Load reads a configuration strictly, and no other file. The error is strictyaml.Errors: all that is
// wrong, each with file, line, column and field.
func Load(file string, data []byte, descriptors []providers.Descriptor) (*Config, error) {
	return load(file, data, descriptors, false)
}

// leastPace is the least quota, in calls per second, of an account that has its calls wait. An effect makes several between what it is
// judged by and itself, others wait beside it, and what is judged holds for five seconds.
const leastPace = 5

func load(file string, data []byte, descriptors []providers.Descriptor, readSigners bool) (*Config, error) {
	doc := strictyaml.Parse(file, data)
	if !doc.Readable() {
		return nil, doc.Err()
	}
	find := func(path, role string, fits func(providers.Descriptor) bool) (providers.Descriptor, bool) {
		var known []string
		typ, _ := doc.Text(path + ".type")
		for _, d := range descriptors {
			if !fits(d) {
				continue
			}
			if d.Type == typ {
				return d, true
			}
			known = append(known, d.Type)
		}
		doc.Report(strictyaml.Problem{Field: path + ".type", What: fmt.Sprintf("is %q, which is no type of %s", typ, role), Write: "write " + strings.Join(known, " or ")})
		return providers.Descriptor{}, false
	}
	doc.On(reflect.TypeFor[Account](), func(path string, into reflect.Value) {
		d, ok := find(path, "account", func(d providers.Descriptor) bool { return d.Account != nil })
		if !ok {
			return
		}
		var quota struct {
			Quota Rate `json:"quota"`
		}
		if doc.Has(path + ".quota") {
			doc.Decode(path+".quota", &quota.Quota)
		}
		scan := false
		if doc.Has(path + ".scan") {
			doc.Decode(path+".scan", &scan)
			if scan && !d.CanList() {
				doc.Report(strictyaml.Problem{Field: path + ".scan", What: "is set, and accounts of type " + d.Type + " cannot list all their keys", Write: "remove it"})
			}
		}
		settings := d.Account()
		doc.Decode(path, settings, "type", "quota", "scan")
		problemsBelow(doc, path, settings)
		if paced, can := settings.(providers.Paced); can && quota.Quota.PerSecond > 0 {
			if quota.Quota.PerSecond < leastPace {
				doc.Report(strictyaml.Problem{
					Field: path + ".quota", What: "has each call of a worker wait so long that no change would be made: what it is judged by holds for seconds",
					Write: fmt.Sprintf("write at least %d/s, or leave it out for no limit", leastPace),
				})
			}
			paced.Pace(quota.Quota.PerSecond)
		}
		into.Set(reflect.ValueOf(Account{Type: d.Type, Quota: quota.Quota, Scan: scan, Settings: settings}))
	})
	doc.On(reflect.TypeFor[Notifier](), func(path string, into reflect.Value) {
		d, ok := find(path, "notifier", func(d providers.Descriptor) bool { return d.Notifier != nil })
		if !ok {
			return
		}
		settings := d.Notifier.Config()
		doc.Decode(path, settings, "type", "name")
		problemsBelow(doc, path, settings)
		name, _ := doc.Text(path + ".name")
		into.Set(reflect.ValueOf(Notifier{Type: d.Type, Name: name, Settings: settings}))
	})
	doc.On(reflect.TypeFor[FreezeHook](), func(path string, into reflect.Value) {
		d, ok := find(path, "freezer", func(d providers.Descriptor) bool { return d.Freezer != nil })
		if !ok {
			return
		}
		settings := d.Freezer.Config()
		doc.Decode(path, settings, "type")
		problemsBelow(doc, path, settings)
		into.Set(reflect.ValueOf(FreezeHook{Type: d.Type, Settings: settings}))
	})
	doc.On(reflect.TypeFor[Collector](), func(path string, into reflect.Value) {
		d, ok := find(path, "audit sink", func(d providers.Descriptor) bool { return d.Collector != nil })
		if !ok {
			return
		}
		settings := d.Collector.Config()
		doc.Decode(path, settings, "type")
		problemsBelow(doc, path, settings)
		into.Set(reflect.ValueOf(Collector{Type: d.Type, Settings: settings}))
	})

	c := &Config{}
	doc.Decode("", c)
	check(c, doc.Report)
	if readSigners {
		checkSigners(c.Trust, doc.Report)
	}
	if err := doc.Err(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	c.Digest = hex.EncodeToString(sum[:])
	return c, nil
}

func problemsBelow(doc *strictyaml.Document, path string, settings any) {
	strictyaml.Inspect(settings, func(p strictyaml.Problem) {
		p.Field = strings.TrimSuffix(path+"."+p.Field, ".")
		doc.Report(p)
	})
}

func check(c *Config, report func(strictyaml.Problem)) {
	wrong := func(field, what, write string) { report(strictyaml.Problem{Field: field, What: what, Write: write}) }
	if c.APIVersion != APIVersion {
		wrong("apiVersion", fmt.Sprintf("is %q", c.APIVersion), "write "+APIVersion)
	}
	if len(c.Accounts) == 0 {
		wrong("accounts", "has no entry", "configure the issuers and stores that this worker may use")
	}
	if len(c.Bounds) == 0 {
		wrong("bounds", "has no entry", "say what specs of each environment may ask for; one that is not listed may do nothing")
	}
	for name, b := range c.Bounds {
		field := strictyaml.Entry("bounds", name)
		checkBounds(field, b, wrong)
		if len(c.Bounds) > 1 && len(b.Accounts) == 0 {
			wrong(field, "has no accounts, and there are other environments: whoever signs for one of them could name the accounts of all",
				"write accounts: [names], those of this environment alone")
		}
		for i, account := range b.Accounts {
			if _, known := c.Accounts[account]; !known {
				wrong(fmt.Sprintf("%s.accounts[%d]", field, i), fmt.Sprintf("is %q, which is not under accounts", account), "name one of accounts")
			}
		}
		for i, program := range b.Programs {
			if _, known := c.Programs[program]; !known {
				wrong(fmt.Sprintf("%s.programs[%d]", field, i), fmt.Sprintf("is %q, which is not under programs", program), "name one of programs")
			}
		}
	}
	for name, command := range c.Programs {
		if len(command) == 0 || !filepath.IsAbs(command[0]) {
			wrong(strictyaml.Entry("programs", name), "has no absolute path", "write [/absolute/path/of/program, arguments]")
		}
	}
	for i, hook := range c.Freeze {
		if runs, is := hook.Settings.(interface{ Programs() []string }); is {
			for _, program := range runs.Programs() {
				if _, known := c.Programs[program]; !known {
					wrong(fmt.Sprintf("freeze[%d].program", i), fmt.Sprintf("is %q, which is not under programs", program), "name one of programs")
				}
			}
		}
	}
	for i, log := range c.AccessLogs {
		for _, p := range log.Problems() {
			p.Field = fmt.Sprintf("accessLogs[%d].%s", i, p.Field)
			report(p)
		}
	}
	for i, t := range c.Trust.Inventory {
		field := fmt.Sprintf("trust.inventory[%d]", i)
		if len(t.Environments) == 0 {
			wrong(field+".environments", "is empty", "name the environments that these signers may sign for")
		}
		absolute(field+".allowedSigners", t.AllowedSigners, wrong)
	}
	for group, file := range c.Trust.Approvers {
		absolute(strictyaml.Entry("trust.approvers", group), file, wrong)
	}
	if c.Trust.Incidents != "" {
		absolute("trust.incidents", c.Trust.Incidents, wrong)
	}
	for environment, groups := range c.Trust.BreakGlass {
		field := strictyaml.Entry("trust.breakGlass", environment)
		if len(groups) == 0 {
			wrong(field, "names no group", "name one of trust.approvers, or remove it")
		}
		for i, group := range groups {
			if _, known := c.Trust.Approvers[group]; !known {
				wrong(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("is %q, which is not under trust.approvers", group), "name one of trust.approvers")
			}
		}
	}
	if c.WebUI != "" {
		if what, write := endpoint.Judge(c.WebUI); what != "" {
			wrong("webUI", what, "write "+write)
		}
	}
	if c.Audit.Retention < 0 {
		wrong("audit.retention", "is negative", "write how long histories must be kept, such as 90d")
	}
	if c.MaxRotations < 0 || c.MaxRotations > 10000 {
		wrong("maxRotations", fmt.Sprintf("is %d", c.MaxRotations), "write how many routine rotations may run at once, 1 to 10000")
	}
	if c.Audit.File != "" {
		absolute("audit.file", c.Audit.File, wrong)
	}
	if c.Audit.Sink.Type != "" && c.Audit.File == "" {
		wrong("audit.sink", "has no audit.file: events wait there while nobody takes them", "write audit: {file: /absolute/path, sink: …}")
	}
}

// checkSigners reads the files of those who may sign, so that a worker with a bad one does not start.
func checkSigners(t Trust, report func(strictyaml.Problem)) {
	names := map[string]string{} // of approvers' keys
	look := func(field, file string, approves bool) {
		signers, err := signed.LoadSigners(file)
		switch {
		case err != nil:
			report(strictyaml.Problem{Field: field, What: "cannot be used: " + err.Error(), Write: "mend the file; see ssh-keygen(1), ALLOWED SIGNERS"})
		case len(signers) == 0:
			report(strictyaml.Problem{Field: field, What: file + " names nobody", Write: "write a line for each key: name ssh-ed25519 AAAA…"})
		}
		for _, k := range signers {
			by := k.Signer()
			if other, known := names[by.Key]; approves && known && other != by.Name {
				report(strictyaml.Problem{Field: field, What: fmt.Sprintf("%s has key %s of %s, which is that of %s, too: one person would be two", file, by.Key, by.Name, other), Write: "write it under one name"})
			}
			if approves {
				names[by.Key] = by.Name
			}
		}
	}
	for i, in := range t.Inventory {
		look(fmt.Sprintf("trust.inventory[%d].allowedSigners", i), in.AllowedSigners, false)
	}
	for _, group := range slices.Sorted(maps.Keys(t.Approvers)) {
		look(strictyaml.Entry("trust.approvers", group), t.Approvers[group], true)
	}
	if people := slices.Compact(slices.Sorted(maps.Values(names))); len(t.BreakGlass) > 0 && len(people) == 1 {
		report(strictyaml.Problem{
			Field: "trust.breakGlass", What: fmt.Sprintf("lets %s pass gates alone, whom nobody else under trust.approvers could review", people[0]),
			Write: "name somebody else there, or remove it",
		})
	}
	if t.Incidents != "" {
		look("trust.incidents", t.Incidents, false)
	}
}

func absolute(field, path string, wrong func(field, what, write string)) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		wrong(field, fmt.Sprintf("is %q", path), "write an absolute, clean path")
	}
}

func checkBounds(field string, b Bounds, wrong func(field, what, write string)) {
	for i, root := range b.FileRoots {
		absolute(fmt.Sprintf("%s.fileRoots[%d]", field, i), root, wrong)
		if root == "/" {
			wrong(fmt.Sprintf("%s.fileRoots[%d]", field, i), "is the whole file system", "name the folders that keys may be written to")
		}
	}
	for i, host := range b.Hosts {
		name, port, err := net.SplitHostPort(host)
		number, portErr := strconv.Atoi(port)
		at := fmt.Sprintf("%s.hosts[%d]", field, i)
		switch {
		case err != nil || portErr != nil || number < 1 || number > 65535 || name == "" || strings.Contains(strings.TrimPrefix(name, "*."), "*"),
			strings.HasPrefix(name, "*.") && numericEnd.MatchString(name):
			wrong(at, fmt.Sprintf("is %q", host), "write host:port or *.suffix:port")
		case forbidden(name):
			wrong(at, fmt.Sprintf("is %q, a link-local or unspecified address", host), "remove it: cloud metadata services live there")
		}
	}
	for kind, globs := range map[string][]string{"principals": b.Principals, "storePaths": b.StorePaths} {
		for i, g := range globs {
			if _, err := globForm(g); err != nil || g == "" {
				wrong(fmt.Sprintf("%s.%s[%d]", field, kind, i), fmt.Sprintf("is %q", g), "write a name, in which * stands for any part and ** crosses slashes")
			}
		}
	}
	if b.MinRisk != "" && !slices.Contains(inventory.Risks, b.MinRisk) {
		wrong(field+".minRisk", fmt.Sprintf("is %q", b.MinRisk), "write low, standard, high or critical")
	}
	if b.MaxRotations < 0 || b.MaxRotations > 10000 {
		wrong(field+".maxRotations", fmt.Sprintf("is %d", b.MaxRotations), "write how many routine rotations of the environment may run at once, 1 to 10000, or leave it out")
	}
	if b.MaxUnpromoted < 0 || b.MaxUnpromoted > 10000 {
		wrong(field+".maxUnpromoted", fmt.Sprintf("is %d", b.MaxUnpromoted), "write how many routine rotations of the environment may be between issue and promotion at once, 1 to 10000, or leave it out")
	}
	if b.MinApprovals < 0 {
		wrong(field+".minApprovals", "is negative", "write zero or more")
	}
}

func forbidden(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && forbiddenAddr(a)
}

// forbiddenAddr: nothing that a spec may name lives there, and cloud metadata services do.
func forbiddenAddr(a netip.Addr) bool {
	a = a.Unmap()
	if nat64.Contains(a) { // an address of IPv4 in the last four bytes
		bytes := a.As16()
		a = netip.AddrFrom4([4]byte(bytes[12:]))
	}
	return slices.Contains(metadataAddrs, a) || a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast() || a.IsMulticast() || a.IsUnspecified()
}

var (
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
	// metadataAddrs are metadata services of clouds that have no link-local address.
	metadataAddrs = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd20:ce::254"), netip.MustParseAddr("100.100.100.200")}
	// numericEnd is the end of an address of IPv4, which no domain has.
	numericEnd = regexp.MustCompile(`(^|\.)[0-9]*$`)
)

// globForm compiles a glob: * is any part without a slash, ** any part.
func globForm(glob string) (*regexp.Regexp, error) {
	quoted := regexp.QuoteMeta(glob)
	quoted = strings.ReplaceAll(quoted, `\*\*`, "\x00")
	quoted = strings.ReplaceAll(quoted, `\*`, `[^/]*`)
	return regexp.Compile("^" + strings.ReplaceAll(quoted, "\x00", `.*`) + "$")
}
