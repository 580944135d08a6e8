package eval

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/recommend"
	"forefend.dev/forefend/predictor/risk"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

// tradeFigure is what one way to decide cost.
type tradeFigure struct {
	Cost    float64 `json:"cost"`    // expected, of one run
	Broken  float64 `json:"broken"`  // share of runs of which an honest call was refused
	Success float64 `json:"success"` // share of attacks that no refused call stopped
}

// recommendResult is the JSON of `forefend eval recommend`.
type recommendResult struct {
	tradeFigure
	Below     float64                `json:"below_the_better"` // 0.3: 30 % less than the better of always-strictest and always-open
	Attacked  float64                `json:"attacked"`         // share of runs that are attacked
	Captures  int                    `json:"captures"`
	Skipped   []string               `json:"skipped,omitempty"`
	Baselines map[string]tradeFigure `json:"baselines"`
}

func newRecommendCommand() *cobra.Command {
	var data string
	var out format
	var attacked float64
	cmd := &cobra.Command{
		Use:   "recommend --data DIR",
		Short: "What safeguards cost and save (docker CVE form)",
		Long: "Replays the files that `eval rows` reads. Captures named train… are the history of a workload. Each other capture\n" +
			"is two runs: one of an image with a vulnerability that is known to be exploited, in which the exploit is tried, and one\n" +
			"of the image without it, up to the first row of an exploit. The recommendation sees the history and the risk at the\n" +
			"start. A run is broken when a call of a row before the exploit is refused; an attack succeeds unless a call of its rows\n" +
			"is. always-strictest refuses every call that history did not see, always-open none. Attacked runs weigh as --attacked says.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := evaluateRecommend(data, attacked)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), r, r.text)
		},
	}
	needed(cmd, &data, "data", "directory of recorded rows")
	out.flags(cmd)
	cmd.Flags().Float64Var(&attacked, "attacked", 0.1, "share of runs that are attacked, above 0 and below 1")
	return cmd
}

func (r *recommendResult) text(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%d captures, %.0f %% of runs attacked; %.0f %% below the better of the two\n", r.Captures, 100*r.Attacked, 100*r.Below)
	line := func(name string, f tradeFigure) {
		if err == nil {
			_, err = fmt.Fprintf(w, "%-18s cost %.3f a run, %.1f %% broken, %.1f %% of attacks succeed\n", name, f.Cost, 100*f.Broken, 100*f.Success)
		}
	}
	line("recommended", r.tradeFigure)
	for _, name := range []string{"always-strictest", "always-open"} {
		line(name, r.Baselines[name])
	}
	return err
}

// replayed is one run: the calls of its honest rows, and of the exploit's, if any.
type replayed struct {
	honest, attack map[string]bool
	known          recommend.Known
}

// refusal tells whether a call is refused in a run.
type refusal func(call string, k recommend.Known) bool

// recommended is how the daemon decides: what history does not speak for is refused as far as the trade says, dangerous
// calls always.
func recommended() func(recommend.Known) refusal {
	table := recommend.DefaultTable()
	return func(k recommend.Known) refusal {
		all, sensitive := false, false
		for _, o := range table.Weigh(k).Options {
			all = all || o.Chosen && o.Safeguard == evidence.SafeguardEnforce
			sensitive = sensitive || o.Chosen && o.Safeguard == evidence.SafeguardSensitiveCalls
		}
		return func(call string, k recommend.Known) bool {
			switch class := seccomp.Classify(call); {
			case all, class == seccomp.ClassDangerous:
				return recommend.Refuses(evidence.SafeguardEnforce, call, k)
			case sensitive && class == seccomp.ClassSensitive:
				return recommend.Refuses(evidence.SafeguardSensitiveCalls, call, k)
			}
			return false
		}
	}
}

func evaluateRecommend(dir string, attacked float64) (*recommendResult, error) {
	if !(attacked > 0 && attacked < 1) {
		return nil, fmt.Errorf("--attacked %v is not above 0 and below 1", attacked)
	}
	files, err := filepath.Glob(filepath.Join(dir, "CVE-*.txt*"))
	if err != nil {
		return nil, err
	}
	r := &recommendResult{Attacked: attacked, Baselines: map[string]tradeFigure{}}
	var quiet, hit []replayed
	for _, file := range files {
		captures, err := readCaptures(file)
		if err != nil {
			return nil, err
		}
		q, h := replays(captures)
		if len(q) == 0 {
			r.Skipped = append(r.Skipped, filepath.Base(file))
		}
		quiet, hit = append(quiet, q...), append(hit, h...)
	}
	if len(hit) == 0 {
		return nil, fmt.Errorf("%s holds no CVE-*.txt with training captures and an exploit", dir)
	}
	r.Captures = len(quiet)
	always := func(refuse refusal) func(recommend.Known) refusal {
		return func(recommend.Known) refusal { return refuse }
	}
	r.tradeFigure = tally(quiet, hit, recommended(), attacked)
	r.Baselines["always-open"] = tally(quiet, hit, always(func(string, recommend.Known) bool { return false }), attacked)
	r.Baselines["always-strictest"] = tally(quiet, hit, always(func(call string, k recommend.Known) bool {
		return recommend.Refuses(evidence.SafeguardEnforce, call, k)
	}), attacked)
	r.Below = 1 - r.Cost/min(r.Baselines["always-open"].Cost, r.Baselines["always-strictest"].Cost)
	return r, nil
}

// replays makes the runs of one scenario. Without a call in training there is no history, and no run.
func replays(captures []capture) (quiet, hit []replayed) {
	p := workload.Prediction{Level: workload.LevelDigestCommand.String(), Seen: map[string]int{}}
	var train []map[string]bool
	for _, c := range captures {
		if honest, _ := calls(c); strings.HasPrefix(c.name, "train") && len(honest) > 0 {
			train = append(train, honest)
			for call := range honest {
				p.Seen[call]++
			}
		}
	}
	if p.Runs = len(train); p.Runs == 0 {
		return nil, nil
	}
	loners := 0
	for _, honest := range train {
		for call := range honest {
			if p.Seen[call] == 1 {
				loners++
				break
			}
		}
	}
	p.Unseen = estimate.MissingMass(p.Runs, loners)
	server := &evidence.Scan{Ports: []evidence.Port{{Number: 80, Protocol: "tcp", Why: "every scenario is a server"}}}
	known := func(v ...evidence.Vulnerability) recommend.Known {
		return recommend.Known{Prediction: p, Scan: server, Risk: risk.Assess(risk.Input{Vulnerabilities: v, Known: true, Runs: p.Runs, Unseen: p.Unseen})}
	}
	vulnerable := known(evidence.Vulnerability{Severity: 9.8, Reachable: true, Exploited: risk.Exploitation(risk.Features{Known: true})})
	patched := known()
	for _, c := range captures {
		honest, attack := calls(c)
		if strings.HasPrefix(c.name, "train") || len(honest) == 0 {
			continue
		}
		quiet = append(quiet, replayed{honest: honest, known: patched})
		if slices.Contains(c.labels, true) {
			hit = append(hit, replayed{honest: honest, attack: attack, known: vulnerable})
		}
	}
	return quiet, hit
}

// calls returns what was called before the first row of an exploit, and in its rows.
func calls(c capture) (honest, attack map[string]bool) {
	honest, attack = map[string]bool{}, map[string]bool{}
	began := false
	for i, row := range c.rows {
		began = began || c.labels[i]
		for call := range row {
			switch {
			case c.labels[i]:
				attack[call] = true
			case !began:
				honest[call] = true
			}
		}
	}
	return honest, attack
}

func tally(quiet, hit []replayed, decide func(recommend.Known) refusal, attacked float64) tradeFigure {
	costs := recommend.DefaultCosts()
	var f tradeFigure
	add := func(runs []replayed, weight float64) {
		for _, r := range runs {
			refuse := decide(r.known)
			refused := func(calls map[string]bool) bool {
				for call := range calls {
					if refuse(call, r.known) {
						return true
					}
				}
				return false
			}
			w := weight / float64(len(runs))
			if refused(r.honest) {
				f.Broken += w
				f.Cost += w * costs.Breakage
			}
			if r.attack != nil && !refused(r.attack) {
				f.Success += 1 / float64(len(runs))
				f.Cost += w * costs.Incident
			}
		}
	}
	add(quiet, 1-attacked)
	add(hit, attacked)
	return f
}
