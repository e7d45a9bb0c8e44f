"""The ops: schema, fake, autograd and public function of each; importing a module here declares its ops."""
