"""What `import personaspace` offers: studies, their results, and the parts on their own."""
