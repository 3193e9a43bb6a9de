"""What several questions draw with: columns, tables, colours, pages."""
