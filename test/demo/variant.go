package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"forefend.dev/forefend/test/e2e/harness"
)

// newDigest replaces an image by one that differs in a label only: same repository, another digest, as an update has.
func (d *demo) newDigest(ctx context.Context, name string) error {
	ctx, release, err := d.env.Client().WithLease(d.env.Context(ctx))
	if err != nil {
		return err
	}
	defer func() { _ = release(ctx) }()
	store := d.env.Client().ContentStore()
	original, err := d.env.Client().GetImage(ctx, harness.Image(name))
	if err != nil {
		return err
	}
	manifest, err := images.Manifest(ctx, store, original.Target(), original.Platform())
	if err != nil {
		return err
	}
	body, err := content.ReadBlob(ctx, store, manifest.Config)
	if err != nil {
		return err
	}
	var config v1.Image
	if err := json.Unmarshal(body, &config); err != nil {
		return fmt.Errorf("configuration of %s: %w", name, err)
	}
	config.Config.Labels = map[string]string{"version": "2"}
	write := func(v any, mediaType string, labels map[string]string) (v1.Descriptor, error) {
		body, err := json.Marshal(v)
		if err != nil {
			return v1.Descriptor{}, err
		}
		desc := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
		return desc, content.WriteBlob(ctx, store, desc.Digest.String(), bytes.NewReader(body), desc, content.WithLabels(labels))
	}
	if manifest.Config, err = write(config, manifest.Config.MediaType, map[string]string{"version": "2"}); err != nil {
		return err
	}
	refs := map[string]string{"containerd.io/gc.ref.content.config": manifest.Config.Digest.String()}
	for i, l := range manifest.Layers {
		refs[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
	}
	target, err := write(manifest, v1.MediaTypeImageManifest, refs)
	if err != nil {
		return err
	}
	_, err = d.env.Client().ImageService().Update(ctx, images.Image{Name: harness.Image(name), Target: target})
	return err
}
