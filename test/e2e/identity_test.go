package e2e

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	digest "github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestIdentity checks under which keys a workload finds its history again.
func TestIdentity(t *testing.T) {
	h := newHost(t)
	const runs = 5
	for range runs {
		h.mustRun(t, probe("exit", "0"))
	}
	starts := func(t *testing.T, c container) decision {
		id := h.newID("again")
		h.mustRun(t, c.named(id))
		return h.explain(t, id)
	}
	t.Run("image and command", func(t *testing.T) {
		d := starts(t, probe("exit", "0"))
		if d.Prediction.Level != "image+command" || d.Prediction.Runs != runs || !d.Prediction.Sealed {
			t.Errorf("%+v", d.Prediction)
		}
		if f := d.Facts; f.Image.Repository != "docker.io/library/static" || len(f.Image.Digest) != 71 || f.Executable.Path != "/probe" || len(f.Executable.SHA256) != 64 {
			t.Errorf("facts %+v", f)
		}
	})
	t.Run("new digest", func(t *testing.T) {
		h.variant(t, "docker.io/library/static:v2")
		c := probe("exit", "0")
		c.image = "docker.io/library/static:v2"
		d := starts(t, c)
		if d.Prediction.Level != "repository+command" || d.Prediction.Runs < runs || d.Prediction.Unseen > 0.2 {
			t.Errorf("%+v", d.Prediction)
		}
	})
	t.Run("executable in another image", func(t *testing.T) {
		h.variant(t, "registry.example/team/tool:1")
		c := probe("exit", "0")
		c.image = "registry.example/team/tool:1"
		d := starts(t, c)
		if d.Prediction.Level != "executable" || d.Prediction.Runs < runs || d.Prediction.Seen["execve"] == 0 {
			t.Errorf("%+v", d.Prediction)
		}
	})
	t.Run("another command", func(t *testing.T) {
		if d := starts(t, probe("env")); d.Prediction.Level == "image+command" || d.Prediction.Level == "repository+command" {
			t.Errorf("%+v", d.Prediction)
		}
	})
	t.Run("user and group", func(t *testing.T) {
		d := starts(t, probe("env").with(annotate("user", "alice")))
		if d.Facts.User != "alice" || d.Facts.Group != h.Namespace {
			t.Errorf("user %q, group %q", d.Facts.User, d.Facts.Group)
		}
		if d := starts(t, probe("env").with(annotate("group", "ops"))); d.Facts.Group != "ops" {
			t.Errorf("group %q", d.Facts.Group)
		}
	})
}

// variant makes an image of the static one that differs from it in a label, and so in its digest, under a new name.
func (h *host) variant(t *testing.T, name string) {
	t.Helper()
	ctx, release, err := h.Client().WithLease(h.context(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release(ctx) }()
	store := h.Client().ContentStore()
	original, err := h.Client().GetImage(ctx, harness.Image("static"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := images.Manifest(ctx, store, original.Target(), original.Platform())
	if err != nil {
		t.Fatal(err)
	}
	body, err := content.ReadBlob(ctx, store, manifest.Config)
	if err != nil {
		t.Fatal(err)
	}
	var config v1.Image
	if err := json.Unmarshal(body, &config); err != nil {
		t.Fatal(err)
	}
	config.Config.Labels = map[string]string{"variant": name}
	write := func(v any, mediaType string, refs map[string]string) v1.Descriptor {
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
		if err := content.WriteBlob(ctx, store, d.Digest.String(), bytes.NewReader(body), d, content.WithLabels(refs)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	manifest.Config = write(config, manifest.Config.MediaType, map[string]string{"variant": "config"})
	refs := map[string]string{"containerd.io/gc.ref.content.config": manifest.Config.Digest.String()}
	for i, l := range manifest.Layers {
		refs["containerd.io/gc.ref.content.l."+string(rune('0'+i))] = l.Digest.String()
	}
	target := write(manifest, v1.MediaTypeImageManifest, refs)
	if _, err := h.Client().ImageService().Create(ctx, images.Image{Name: name, Target: target}); err != nil {
		t.Fatal(err)
	}
}
