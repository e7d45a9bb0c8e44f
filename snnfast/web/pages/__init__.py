"""The pages, one file each: `build(jobs, offer, tab, app)` makes a page's components inside its tab."""
