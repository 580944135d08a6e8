package policy

import (
	"fmt"
	"maps"
	"path"
	"slices"
)

// Profile is what a site has decided for certain users and groups.
type Profile struct {
	Name string
	// Users and Groups list the names the profile is for; one match in either
	// suffices. "*" matches every name and none at all, other patterns are those
	// of path.Match.
	Users, Groups []string
	Grants        []Key   // keys and families an annotation may loosen
	Claims        []Claim // Author Default, Source "profile NAME"
	Guards        []Guard
}

// Site is what the operators of a node have decided for all its containers.
type Site struct {
	Claims   []Claim // defaults of every workload, Author Default
	Guards   []Guard
	Prefer   map[Dimension]Prefer
	Profiles []Profile // in order: the first that matches holds
}

// DefaultProfile is the name of the profile of a workload that no profile of
// the site matches. It decides and grants nothing.
const DefaultProfile = "default"

// Profile returns the first profile for this user and group, else an empty
// one named DefaultProfile.
func (s Site) Profile(user, group string) Profile {
	for _, p := range s.Profiles {
		if matches(p.Users, user) || matches(p.Groups, group) {
			return p
		}
	}
	return Profile{Name: DefaultProfile}
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return pattern == "*" || name != "" && err == nil && ok
	})
}

// Input puts the site's and the profile's decisions beside claims, ready for
// Merge. A profile's default replaces the site's for the same key, and either
// replaces a Default among claims; guards of both hold.
func (s Site) Input(p Profile, claims ...[]Claim) Input {
	return Input{
		Claims:  slices.Concat(append(slices.Clip(claims), ranked(s.Claims, 1), ranked(p.Claims, 2))...),
		Guards:  slices.Concat(s.Guards, p.Guards),
		Grants:  slices.Clone(p.Grants),
		Profile: p.Name,
		Prefer:  maps.Clone(s.Prefer),
	}
}

func ranked(claims []Claim, rank uint8) []Claim {
	claims = slices.Clone(claims)
	for i := range claims {
		claims[i].rank = rank
	}
	return claims
}

// CheckPattern refuses what cannot match the name of a user or group.
func CheckPattern(pattern string) error {
	if err := CheckIdentity(pattern); err != nil {
		return err
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Errorf("%.40q is not a pattern: %w", pattern, err)
	}
	return nil
}
