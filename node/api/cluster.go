package api

// Cluster is the answer to cluster/init.
type Cluster struct {
	Node    string `json:"node"`    // that made it
	Cluster string `json:"cluster"` // its name, which follows from the secret
	Log     string `json:"log"`     // the id of its log, drawn when it was made
}
